"""Answers that are kept: responses, what runs behind its caller, streams that are gone on with."""
