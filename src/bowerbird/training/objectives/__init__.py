"""What trains beside the systems: autoencoder, tokenizer, encoder, judge, copy descriptor, reranker."""

from bowerbird.systems.registry import ObjectiveEntry, Registration

_HERE = "bowerbird.training.objectives"

REGISTRATION = Registration(
    objectives={
        "small-encoder": ObjectiveEntry(
            config=f"{_HERE}.small_encoder:ContrastiveConfig",
            build=f"{_HERE}.small_encoder:build",
            preview=f"{_HERE}.preview:small_encoder_sheet",
        ),
        "patch-encoder": ObjectiveEntry(
            config=f"{_HERE}.patch_encoder:PatchEncoderTraining",
            build=f"{_HERE}.patch_encoder:build",
            preview=f"{_HERE}.patch_encoder:sheet",
        ),
        "locked-image": ObjectiveEntry(
            config=f"{_HERE}.locked_image:LockedImageConfig",
            build=f"{_HERE}.locked_image:build",
            frozen=f"{_HERE}.locked_image:frozen",
        ),
        "autoencoder": ObjectiveEntry(
            config=f"{_HERE}.autoencoder:AutoencoderConfig",
            build=f"{_HERE}.autoencoder:build",
            frozen=f"{_HERE}.autoencoder:frozen",
            preview=f"{_HERE}.preview:autoencoder_sheet",
        ),
        "vq": ObjectiveEntry(
            config=f"{_HERE}.vq:VQConfig",
            build=f"{_HERE}.vq:build",
            frozen=f"{_HERE}.vq:frozen",
            preview=f"{_HERE}.preview:vq_sheet",
        ),
        "classifier": ObjectiveEntry(
            config=f"{_HERE}.judge:JudgeConfig",
            build=f"{_HERE}.judge:build",
            preview=f"{_HERE}.preview:judge_sheet",
        ),
        "copy-descriptor": ObjectiveEntry(
            config=f"{_HERE}.copy_descriptor:CopyConfig",
            build=f"{_HERE}.copy_descriptor:build",
            preview=f"{_HERE}.preview:copies_sheet",
        ),
        "reranker": ObjectiveEntry(
            config=f"{_HERE}.reranker:RerankerConfig",
            build=f"{_HERE}.reranker:build",
        ),
    }
)
