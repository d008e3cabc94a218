"""The folder of `agency run`: three stages that are resumed apart, and the configuration of the whole.

RUN/config.json      what decides the results; another judge may be added later, and nothing else may change but the
                     settings of a stage that has recorded nothing, such as those that a server refused
RUN/items            a run folder (`core.records`) of the items
RUN/replies          ... of the subject's replies
RUN/verdicts-JUDGE   ... of one judge's verdicts, for each judge
RUN/costs.json       calls and tokens by role and model, and what they cost
RUN/metrics.json     means and counts
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inferalign.agency.conditions import Condition
from inferalign.agency.item_source import Material
from inferalign.agency.records import Reply
from inferalign.agency.stored import ITEMS, REPLIES, VERDICTS, kind_of, to_record, to_reply
from inferalign.core.config import to_dict
from inferalign.core.environment import environment
from inferalign.core.errors import RunError
from inferalign.core.files import disk_errors, read_json, write_json_atomic
from inferalign.core.records import RunFolder, differences, done_ids, read_records

KIND = "agency-run"
CONFIG, COSTS, METRICS = "config.json", "costs.json", "metrics.json"


def run_config(
    material: Material,
    conditions: Sequence[Condition],
    subject: Mapping[str, Any],
    judges: Mapping[str, Mapping[str, Any]],
    *,
    repeats: int,
    judge_repeats: int,
    seed: int,
) -> dict[str, Any]:
    """What decides a run's results, as JSON values. `subject` holds its `name` beside what it says of itself."""
    return {
        "kind": KIND,
        **material.describe(),
        "subject": to_dict(subject),
        "conditions": {condition.name: dict(condition.describe()) for condition in conditions},
        "repeats": repeats,
        "judges": to_dict(judges),
        "judge_repeats": judge_repeats,
        "seed": seed,
    }


class AgencyFolder:
    """The folders of a run, open for writing. Use it in a `with`."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        """Makes them, or takes them up again. `config` is of `run_config`.

        Raises `RunError` when the folder was made by another configuration and when another process writes it.
        """
        self.path = path
        self._open = ExitStack()
        try:
            env = environment()
            shared = {key: config[key] for key in ("dimensions", "items", "seed")}
            self.items = self._stage(ITEMS, ITEMS, shared, env)
            replies = {key: config[key] for key in ("subject", "conditions", "repeats")}
            self.replies = self._stage(REPLIES, REPLIES, shared | replies, env)
            self.verdicts = {
                name: self._stage(
                    verdicts_folder(name),
                    VERDICTS,
                    {"judge": judge, "judge_repeats": config["judge_repeats"], "seed": config["seed"]},
                    env,
                )
                for name, judge in config["judges"].items()
            }
            self._check_verdicts()
            self._keep_config(config)
        except BaseException:  # whatever came: nobody else would close what is open already; it goes on up
            self._open.close()
            raise

    def _stage(self, folder: str, stage: str, config: Mapping[str, Any], env: Mapping[str, Any]) -> RunFolder:
        if stage != ITEMS:  # which is open by now and keeps other processes out
            forget_empty(self.path / folder, kind_of(stage))
        return self._open.enter_context(RunFolder.open(self.path / folder, config, env, kind=kind_of(stage)))

    def _keep_config(self, config: Mapping[str, Any]) -> None:
        file = self.path / CONFIG
        judges: dict[str, Any] = {}
        if file.exists() and self.replies.done:
            old = read_json(file)
            judges = old.get("judges", {})
            asked = [name for name in config["judges"] if name in judges and self.verdicts[name].done]
            shared = {name: config["judges"][name] for name in asked}
            compared = {name: judges[name] for name in shared}
            if changes := list(differences(old | {"judges": compared}, {**config, "judges": shared})):
                raise RunError(
                    f"{self.path} was made by another configuration: {'; '.join(changes)}. Repeat the command with "
                    "the folder's own settings (a judge may be added), or name another --run."
                )
        write_json_atomic(file, {**config, "judges": judges | dict(config["judges"])})

    def keep_items(self, material: Material) -> None:
        """Record the items that are not there yet."""
        for item in material.items:
            if self.items.wants(item.id):
                self.items.append(to_record(item))
        self.items.flush()

    def recorded(self) -> dict[str, Reply]:
        """The replies of earlier starts, by id. Raises `RunError` for a damaged one."""
        return {record["id"]: to_reply(record) for record in read_records(self.replies.path, kind_of(REPLIES))}

    def _check_verdicts(self) -> None:
        """Raises `RunError` for a verdict whose reply was lost, as a power cut can do, or a hand: it would be taken for
        one on the reply that is made in its place. Judges that this start does not ask are looked at, too."""
        for folder in sorted(self.path.glob(f"{VERDICTS}*")):
            for record in read_records(folder, kind_of(VERDICTS)) if (folder / "config.json").exists() else ():
                if record.get("reply") not in self.replies.done:
                    raise RunError(
                        f"{folder} has a verdict on the reply {record.get('reply')!r}, which is not in "
                        f"{self.replies.path}: remove the verdict's line, or its folder if all replies are gone, to "
                        "have both made again."
                    )

    def recorded_tokens(self) -> dict[str, list[Mapping[str, int]]]:
        """What each verdict of earlier starts cost, by judge; judges that this start does not ask are among them."""
        stages = {judge: self.path / verdicts_folder(judge) for judge in read_json(self.path / CONFIG)["judges"]}
        return {
            judge: [record["tokens"] for record in read_records(stage, kind_of(VERDICTS))]
            for judge, stage in stages.items()
            if stage.is_dir()  # one that is not asked any more may have been removed
        }

    def __enter__(self) -> AgencyFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def forget_empty(stage: Path, kind: str) -> None:
    """Removes a stage's folder in which nothing was recorded: settings that a server refused may then be changed.

    For who holds another stage of the run, so that no other process writes this one.
    """
    if any((stage / "records").glob("*.jsonl")) and not done_ids(stage, kind):
        with disk_errors(stage, "remove"):
            shutil.rmtree(stage)


def verdicts_folder(judge: str) -> str:
    """The folder of a judge's verdicts: its name, as far as file names can hold it, and six digits of its hash."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", judge).strip("-.")[:60]
    return f"{VERDICTS}-{words}-{hashlib.sha256(judge.encode()).hexdigest()[:6]}"
