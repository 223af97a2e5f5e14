"""From a line that can be answered to requests of the engine."""

from dataclasses import dataclass

from glinthawk.core.seeds import choice_seed
from glinthawk.core.sequence import Request
from glinthawk.jobs.lines import Task
from glinthawk.jobs.text import Text

__all__ = ["TaskRequests"]


@dataclass(frozen=True, slots=True)
class TaskRequests:
    """Made alike wherever a line is answered. ``seed`` is the run's."""

    text: Text
    eos_token_ids: frozenset[int]
    seed: int

    def make(self, task: Task, index: int, number: int) -> Request:
        """For choice ``index`` of ``task``; the engine's asker calls it ``number``."""
        prompt, place = task.prompt_of(index), index % task.params.n
        # A seed that the line brings is mixed with the prompt, and its custom_id is not.
        choice = index if task.params.seed is None else place
        return Request(
            id=number,
            prompt=prompt.ids,
            params=task.params.of_choice(place),
            seed=choice_seed(self.seed, task.params, task.custom_id, choice, prompt.ids),
            max_tokens=prompt.max_tokens,
            eos_token_ids=frozenset() if task.params.ignore_eos else self.eos_token_ids,
            name=task.custom_id,
            bad_tokens=self.text.bad_tokens(task.params),
            pooling=None if task.wish is None else task.wish.pooling,
            adapter=task.adapter,
        )
