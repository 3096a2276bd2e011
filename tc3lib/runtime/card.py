"""The GPU's memory, as torch sees it once a model is loaded."""

GIB = 2**30


def free_gib(limit: float | None = None) -> float | None:
    """Return how much memory, in GiB, the loaded model leaves free on the card; None without a card.

    Args:
        limit: Plan for a card of this size in GiB, if it is smaller.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    here = (free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / GIB  # torch reuses what it reserved
    return here if limit is None else min(here, here + limit - total / GIB)


def peak_memory() -> dict[str, float]:
    """Return the most memory that training used, in GiB: of the card, or without one of this process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return {"03_train: peak of the card": round(torch.cuda.max_memory_reserved() / GIB, 1)}
    return {"03_train: peak of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)}
