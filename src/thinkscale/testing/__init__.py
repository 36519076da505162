"""Fakes that behave, and suites that every adapter must pass: for tests of thinkscale and of what is built on it."""

from __future__ import annotations

from thinkscale.testing.model_conformance import check_model
from thinkscale.testing.reply import Reply
from thinkscale.testing.scripted import Script, ScriptedModel
from thinkscale.testing.step_tree import StepTree

__all__ = ["Reply", "Script", "ScriptedModel", "StepTree", "check_model"]
