"""Runner of glinthawk: in one process, or with workers."""

from protocol import Generate, Settings, serve

from glinthawk import LLM, SamplingParams


def load(settings: Settings) -> Generate:
    kv = "worker_kv" if settings.tier2 else "tier1_kv"
    llm = LLM(
        settings.model,
        tier2=settings.tier2 or (),
        dtype="bfloat16",
        device="cpu",
        batch_tokens=settings.batch_tokens,
        **{kv: settings.kv_bytes},
    )

    def generate(prompts: list[list[int]], new: int) -> list[list[int]]:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(asked, params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]

    return generate


if __name__ == "__main__":
    serve(load, "glinthawk", "torch", "transformers")
