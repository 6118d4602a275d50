"""The mathematics of sampling: guidance, conditioning, schedulers, discrete diffusion. It knows no network."""
