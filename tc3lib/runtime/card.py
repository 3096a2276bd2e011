"""The GPU's memory, as torch sees it."""

GIB = 2**30


def free_gib(limit: float | None) -> float | None:
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    here = (free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / GIB
    return here if limit is None else min(here, here + limit - total / GIB)


def peak_memory() -> dict[str, float]:
    import resource

    import torch

    if torch.cuda.is_available():
        return {"03_train: peak of the card": round(torch.cuda.max_memory_reserved() / GIB, 1)}
    return {"03_train: peak of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)}
