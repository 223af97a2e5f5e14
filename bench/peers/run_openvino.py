"""Runner of OpenVINO GenAI's continuous batching. Its model folder is one that
convert_openvino.py made."""

import numpy as np
import openvino
import openvino_genai as genai
from protocol import Generate, Settings, serve

#: OpenVINO's own on CPUs.
_BLOCK_TOKENS = 32


def load(settings: Settings) -> Generate:
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = settings.kv_tokens // _BLOCK_TOKENS
    scheduler.max_num_seqs = settings.batch_size
    scheduler.max_num_batched_tokens = settings.batch_tokens
    scheduler.enable_prefix_caching = True
    properties = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "bf16",
        "INFERENCE_NUM_THREADS": settings.threads,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": 1,
    }
    pipeline = genai.ContinuousBatchingPipeline(settings.model, scheduler, "CPU", properties)

    # A model without an end-of-sequence token gives OpenVINO -1, which it then refuses.
    def generate(prompts: list[list[int]], new: int) -> list[list[int]]:
        rules = genai.GenerationConfig(
            max_new_tokens=new, ignore_eos=True, do_sample=False, eos_token_id=0
        )
        inputs = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = pipeline.generate(inputs, [rules] * len(inputs))
        return [result.m_generation_ids[0] for result in results]

    return generate


if __name__ == "__main__":
    serve(load, "openvino", "openvino-genai", "optimum-intel")
