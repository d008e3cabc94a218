import asyncio
import json
from dataclasses import replace

import pytest

from inferalign.agency.dimension import load_dimension
from inferalign.agency.pool import gather
from inferalign.agency.simulate import (
    GenerationCall,
    SimulateSettings,
    generator_request,
    own_examples,
    plan_call,
    shipped_themes,
    simulate,
)
from inferalign.agency.stored import to_item
from inferalign.core.errors import InputError, TransientError
from inferalign.engines.chat_api import ChatReply, ChatTokens
from tests.agency.scripted_chat import ScriptedChat, message, reply

DIMENSION = load_dimension("ask_clarifying_questions")
EXAMPLES = own_examples(DIMENSION)
THEMES = shipped_themes()
SETTINGS = SimulateSettings(seed=7)


def call(index: int = 0, settings: SimulateSettings = SETTINGS) -> GenerationCall:
    return plan_call(DIMENSION, settings, index, themes=THEMES, examples=EXAMPLES)


def answer(*prompts: str) -> ChatReply:
    text = json.dumps({str(place): prompt for place, prompt in enumerate(prompts, start=1)})
    return reply(text, tokens=ChatTokens(prompt=100, completion=50))


GOOD = [message("garden", seed) for seed in range(3)]


def run(*replies: ChatReply | Exception, index: int = 0):  # type: ignore[no-untyped-def]
    client = ScriptedChat(replies)
    return asyncio.run(simulate(call(index), DIMENSION, client, SETTINGS, examples=EXAMPLES)), client


def test_a_call_is_the_same_whatever_was_planned_before() -> None:
    forwards = [call(index) for index in range(30)]
    assert [call(index) for index in reversed(range(30))] == forwards[::-1]


def test_another_seed_or_index_is_another_call() -> None:
    other = call(0, SimulateSettings(seed=8))
    assert len({call(0).prompt, call(1).prompt, other.prompt}) == 3
    assert len({call(0).id, call(1).id, other.id}) == 3


def test_examples_and_topics_are_drawn_without_replacement() -> None:
    for index in range(40):
        planned = call(index)
        assert len(set(planned.example_ids)) == 3
        assert len(set(planned.topics)) == DIMENSION.generate.per_call
        assert set(planned.topics) <= set(DIMENSION.generate.topics)


def test_every_example_and_topic_is_drawn_about_as_often_as_the_others() -> None:
    n = 400
    calls = [call(index) for index in range(n)]
    for counts, per_call, kinds in (
        ([sum(e.id in c.example_ids for c in calls) for e in EXAMPLES], 3, len(EXAMPLES)),
        ([sum(t in c.topics for c in calls) for t in DIMENSION.generate.topics], 3, len(DIMENSION.generate.topics)),
    ):
        p = per_call / kinds
        spread = (n * p * (1 - p)) ** 0.5
        assert all(abs(count - n * p) < 4 * spread for count in counts)
    assert len({c.theme for c in calls}) > 0.9 * len(THEMES)


def test_more_messages_than_topics_begin_the_topics_again() -> None:
    few = replace(DIMENSION, generate=replace(DIMENSION.generate, topics=("a", "b"), per_call=5))
    topics = plan_call(few, SETTINGS, 0, themes=THEMES, examples=EXAMPLES).topics
    assert sorted(topics) in (["a", "a", "a", "b", "b"], ["a", "a", "b", "b", "b"])
    assert set(topics[:2]) == set(topics[2:4]) == {"a", "b"}


def test_more_messages_a_call_leave_theme_and_examples_as_they_are() -> None:
    more = replace(DIMENSION, generate=replace(DIMENSION.generate, per_call=5))
    planned = plan_call(more, SETTINGS, 3, themes=THEMES, examples=EXAMPLES)
    assert (planned.theme, planned.example_ids) == (call(3).theme, call(3).example_ids)
    assert planned.topics[:3] == call(3).topics


def test_the_prompt_holds_everything_in_the_stated_order() -> None:
    planned, rules = call(5), DIMENSION.generate
    shown = {example.id: example.fields["prompt"] for example in EXAMPLES}
    parts = [
        rules.request,
        *rules.must,
        *rules.avoid,
        *planned.topics,
        *(shown[name] for name in planned.example_ids),
        planned.theme,
        '"1" to "3"',
    ]
    places = [planned.prompt.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert all(text not in planned.prompt for name, text in shown.items() if name not in planned.example_ids)


def test_a_dimension_without_topics_and_things_to_avoid_has_no_empty_block() -> None:
    bare = replace(DIMENSION, generate=replace(DIMENSION.generate, topics=(), avoid=()))
    planned = plan_call(bare, SETTINGS, 0, themes=THEMES, examples=EXAMPLES)
    assert planned.topics == ()
    assert ":\n\n" not in planned.prompt


@pytest.mark.parametrize(("themes", "examples"), [((), EXAMPLES), (THEMES, EXAMPLES[:2])])
def test_too_little_to_draw_from(themes, examples) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="at least 3 examples and one theme"):
        plan_call(DIMENSION, SETTINGS, 0, themes=themes, examples=examples)


def test_the_request_has_the_published_settings() -> None:
    request = generator_request(call(), DIMENSION, SETTINGS)
    assert (request.temperature, request.top_p, request.max_tokens) == (1.4, 0.95, 1500)
    assert request.seed is not None
    assert 0 <= request.seed < 2**31
    assert [m.role for m in request.messages] == ["user"]
    assert request.json_schema is not None
    assert generator_request(call(), DIMENSION, SimulateSettings(json_schema=False)).json_schema is None


@pytest.mark.parametrize("tolerance", [-0.1, 1.0])
def test_a_tolerance_that_is_no_share(tolerance: float) -> None:
    with pytest.raises(InputError, match="length_tolerance"):
        SimulateSettings(length_tolerance=tolerance)


def test_themes_are_single_lines_and_each_once() -> None:
    assert len(THEMES) == len(set(THEMES)) > 70
    assert all(theme.strip() == theme and theme for theme in THEMES)


def test_a_good_reply_gives_items_with_all_of_their_provenance() -> None:
    record, _ = run(answer(*GOOD), index=4)
    planned = call(4)
    assert (record["id"], record["status"], record["rejected"]) == (planned.id, "ok", [])
    items = [to_item(fields) for fields in record["items"]]
    assert [item.prompt for item in items] == GOOD
    assert {item.cluster for item in items} == {planned.id}
    assert items[1].provenance == {
        "theme": planned.theme,
        "topic": planned.topics[1],
        "examples": list(planned.example_ids),
        "call": 4,
        "place": 2,
        "model": "scripted-1",
        "prompt_hash": planned.prompt_hash,
        "dimension_version": DIMENSION.version,
    }
    json.dumps(record)


def test_the_same_words_have_the_same_id_and_other_words_or_versions_another() -> None:
    first, again = (run(answer(*GOOD), index=index)[0]["items"] for index in (0, 1))
    assert [item["id"] for item in first] == [item["id"] for item in again]
    assert len({item["id"] for item in first}) == 3
    newer = replace(DIMENSION, version=2)
    client = ScriptedChat([answer(*GOOD)])
    record = asyncio.run(simulate(call(), newer, client, SETTINGS, examples=EXAMPLES))
    assert not {item["id"] for item in record["items"]} & {item["id"] for item in first}


def test_a_message_that_fails_is_counted_and_never_an_item() -> None:
    copied = next(e.fields["prompt"] for e in EXAMPLES if e.id == call().example_ids[0])
    record, client = run(answer("too short", GOOD[0], copied))
    assert [reject["reason"] for reject in record["rejected"]] == ["too short", "copies an example"]
    assert [item["prompt"] for item in record["items"]] == [GOOD[0]]
    assert record["items"][0]["provenance"]["place"] == 2
    assert len(client.requests) == 1


def test_a_wrong_form_is_repaired_once() -> None:
    record, client = run(answer(*GOOD[:2]), answer(*GOOD))
    assert (record["status"], len(record["items"]), len(client.requests)) == ("repaired", 3, 2)
    assert record["tokens"] == {"requests": 2, "prompt": 200, "completion": 100, "cached": 0}
    assert client.requests[1].temperature == 1.4


def test_a_call_that_cannot_be_repaired_is_reported_with_its_replies() -> None:
    record, _ = run(reply("Sure! Here they are."), reply("Sorry."))
    assert (record["status"], record["reason"], record["items"]) == ("failed", "not JSON", [])
    assert record["replies"] == ["Sure! Here they are.", "Sorry."]


def test_a_refusal_is_a_failed_call() -> None:
    record, _ = run(reply("I cannot.", "refused"))
    assert (record["status"], record["reason"]) == ("failed", "refused")


def test_an_error_of_the_endpoint_is_raised_and_leaves_no_record() -> None:
    with pytest.raises(TransientError):
        run(TransientError("503"))


def test_the_pool_counts_everything_whatever_the_order_of_the_records() -> None:
    records = [
        run(answer(*GOOD), index=0)[0],
        run(answer(GOOD[0], "too short", message("roof", 1)), index=1)[0],
        run(reply("no"), reply("no"), index=2)[0],
        run(answer(GOOD[0]), answer(*(message("stove", seed) for seed in range(3))), index=3)[0],
    ]
    pool = gather(records)
    assert pool == gather(records[::-1])
    assert pool.calls == {"failed": 1, "ok": 2, "repaired": 1}
    assert pool.failures == {"not JSON": 1}
    assert pool.rejected == {"too short": 1}
    assert (len(pool.items), pool.duplicates) == (7, 1)
    assert [item.id for item in pool.items] == sorted(item.id for item in pool.items)
    assert next(item for item in pool.items if item.prompt == GOOD[0]).cluster == call(0).id
    assert pool.tokens["requests"] == 6
