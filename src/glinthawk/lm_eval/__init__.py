"""The model ``glinthawk`` of lm-evaluation-harness: known there once this is imported."""

from glinthawk.lm_eval.harness_model import HarnessModel

__all__ = ["HarnessModel"]
