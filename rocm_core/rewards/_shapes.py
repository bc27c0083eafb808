"""What scorers that know the shapes world look at: images of the size of its renderings."""

from torch import Tensor, nn

from rocm_core.shapes.scenes import SIZE


def looked_at(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] as (N, 3, 32, 32) in float32 on the CPU, without gradients."""
    images = images.detach().float().cpu()
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return nn.functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
