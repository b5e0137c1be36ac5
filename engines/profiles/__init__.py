"""Families of models: what differs from one to the next, as data, and which of them a model is of."""

from ponder.engines.profiles.finding import find, sampled, template_source
from ponder.engines.profiles.profile import Effort, Profile, Value
from ponder.engines.profiles.tables import PROFILES

__all__ = ["PROFILES", "Effort", "Profile", "Value", "find", "sampled", "template_source"]
