"""Text-to-image pipelines of diffusers, grounded in a knowledge base by an adapter or by their own list of pictures."""

from bowerbird.systems.grounded.bases import BASES
from bowerbird.systems.registry import Registration

REGISTRATION = Registration(
    pipelines=dict.fromkeys(BASES, "bowerbird.systems.grounded.pipeline:ReferencePipeline"),
)
