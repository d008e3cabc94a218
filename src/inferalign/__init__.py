"""inferalign: align a language model for the way it is decoded, and while it is decoded."""
