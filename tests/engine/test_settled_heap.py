"""What the garbage collector looks at while a job runs."""

import gc

from glinthawk.bench.stub import Instant
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.engine import Engine
from glinthawk.scheduler.batch_limits import BatchLimits


def test_what_was_there_before_a_job_is_spared_until_it_ends() -> None:
    engine = Engine(Instant(64), BatchLimits(2, 1, 64))
    params = SamplingParams(max_tokens=2)
    answers = engine.generate(Request(n, (1, 2), params, 0, 2) for n in range(6))
    assert gc.get_freeze_count() == 0
    next(answers)
    assert gc.get_freeze_count() > 0
    answers.close()
    assert gc.get_freeze_count() == 0
