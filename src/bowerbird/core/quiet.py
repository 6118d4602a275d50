"""Third parties' chatter off: progress bars and notices that are not about what the user asked."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Only errors from diffusers and transformers, and no progress bars of their own."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
