"""What the engine is asked for: a request for each choice of a task."""

from dataclasses import dataclass

from glinthawk.core.seeds import choice_seed
from glinthawk.core.sequence import Request
from glinthawk.jobs.lines import Task
from glinthawk.jobs.text import Text

__all__ = ["ChoiceMaker"]


@dataclass(frozen=True, slots=True)
class ChoiceMaker:
    """What requests depend on beside their task. ``seed`` is the run's."""

    text: Text
    eos_token_ids: frozenset[int]
    seed: int

    def request(self, task: Task, index: int, id: int) -> Request:
        """For choice ``index``, under the asker's number ``id``."""
        prompt, place = task.prompt_of(index), index % task.params.n
        # A seed that the line brings is mixed with the prompt, and its custom_id is not.
        number = index if task.params.seed is None else place
        return Request(
            id=id,
            prompt=prompt.ids,
            params=task.params.of_choice(place),
            seed=choice_seed(self.seed, task.params, task.custom_id, number, prompt.ids),
            max_tokens=prompt.max_tokens,
            eos_token_ids=frozenset() if task.params.ignore_eos else self.eos_token_ids,
            name=task.custom_id,
            bad_tokens=self.text.bad_tokens(task.params),
            pooling=None if task.wish is None else task.wish.pooling,
        )
