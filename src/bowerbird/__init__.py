"""bowerbird: collect pictures, search them, and generate new ones grounded in what was found.

    import bowerbird as bb
    kb = bb.KnowledgeBase.open("kb")
    kb.search("a red fox", k=4)
    pipe = bb.load_pipeline("reimagen-drawings")
    pipe("a red fox", knowledge_base=kb, k=1).images[0]

Names load on first use, so that `import bowerbird` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bowerbird.core.version import __version__

_LAZY = {
    "BowerbirdError": ("bowerbird.core.errors", "BowerbirdError"),
    "InstructPipeline": ("bowerbird.systems.instruct.pipeline", "InstructPipeline"),
    "KNNDiffusionPipeline": ("bowerbird.systems.knn.pipeline", "KNNDiffusionPipeline"),
    "KNNDiscretePipeline": ("bowerbird.systems.knn.discrete_pipeline", "KNNDiscretePipeline"),
    "KnowledgeBase": ("bowerbird.knowledge.base", "KnowledgeBase"),
    "MismatchError": ("bowerbird.core.errors", "MismatchError"),
    "PixelGrid": ("bowerbird.models.pixels", "PixelGrid"),
    "Neighbors": ("bowerbird.core.types", "Neighbors"),
    "RACM3Pipeline": ("bowerbird.systems.racm3.pipeline", "RACM3Pipeline"),
    "RARMPipeline": ("bowerbird.systems.rarm.pipeline", "RARMPipeline"),
    "RARMTransformer": ("bowerbird.models.rarm_transformer", "RARMTransformer"),
    "RDMPipeline": ("bowerbird.systems.rdm.pipeline", "RDMPipeline"),
    "ReImagenPipeline": ("bowerbird.systems.reimagen.pipeline", "ReImagenPipeline"),
    "ReferencePipeline": ("bowerbird.systems.grounded.pipeline", "ReferencePipeline"),
    "Guidance": ("bowerbird.diffusion.guidance", "Guidance"),
    "NeighborUNet": ("bowerbird.models.neighbor_unet", "NeighborUNet"),
    "SmallTextTower": ("bowerbird.models.text_tower", "SmallTextTower"),
    "TokenTransformer": ("bowerbird.models.token_transformer", "TokenTransformer"),
    "load_pipeline": ("bowerbird.systems.loading", "load_pipeline"),
    "queries": ("bowerbird.systems.queries", None),
    "encoders": ("bowerbird.encoders", None),
    "recipes": ("bowerbird.training.recipes", None),
}

__all__ = [
    "BowerbirdError",
    "Guidance",
    "InstructPipeline",
    "KNNDiffusionPipeline",
    "KNNDiscretePipeline",
    "KnowledgeBase",
    "MismatchError",
    "NeighborUNet",
    "Neighbors",
    "PixelGrid",
    "RACM3Pipeline",
    "RARMPipeline",
    "RARMTransformer",
    "RDMPipeline",
    "ReImagenPipeline",
    "ReferencePipeline",
    "SmallTextTower",
    "TokenTransformer",
    "__version__",
    "encoders",
    "load_pipeline",
    "queries",
    "recipes",
]

if TYPE_CHECKING:
    from bowerbird import encoders
    from bowerbird.core.errors import BowerbirdError, MismatchError
    from bowerbird.core.types import Neighbors
    from bowerbird.diffusion.guidance import Guidance
    from bowerbird.knowledge.base import KnowledgeBase
    from bowerbird.models.neighbor_unet import NeighborUNet
    from bowerbird.models.pixels import PixelGrid
    from bowerbird.models.rarm_transformer import RARMTransformer
    from bowerbird.models.text_tower import SmallTextTower
    from bowerbird.models.token_transformer import TokenTransformer
    from bowerbird.systems import queries
    from bowerbird.systems.grounded.pipeline import ReferencePipeline
    from bowerbird.systems.instruct.pipeline import InstructPipeline
    from bowerbird.systems.knn.discrete_pipeline import KNNDiscretePipeline
    from bowerbird.systems.knn.pipeline import KNNDiffusionPipeline
    from bowerbird.systems.loading import load_pipeline
    from bowerbird.systems.racm3.pipeline import RACM3Pipeline
    from bowerbird.systems.rarm.pipeline import RARMPipeline
    from bowerbird.systems.rdm.pipeline import RDMPipeline
    from bowerbird.systems.reimagen.pipeline import ReImagenPipeline
    from bowerbird.training import recipes


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'bowerbird' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    loaded = importlib.import_module(module)
    return loaded if attribute is None else getattr(loaded, attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
