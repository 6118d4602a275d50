"""Text to image in the standard form: Stable Diffusion's layout (arXiv 2112.10752), which any program opens; here
`systems/grounded` does."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

REGISTRATION = Registration(
    objectives={
        "stable-diffusion": ObjectiveEntry(
            config="bowerbird.systems.stable_diffusion.objective:StableDiffusionConfig",
            build="bowerbird.systems.stable_diffusion.objective:build",
            frozen="bowerbird.systems.stable_diffusion.objective:frozen",
            preview="bowerbird.systems.stable_diffusion.preview:sheet",
        )
    },
)
