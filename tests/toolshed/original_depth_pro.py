"""The weights of the original Depth Pro network: name and shape of each, as its modules make it."""

from __future__ import annotations

from collections.abc import Iterator

Named = tuple[str, tuple[int, ...]]


def original_weights(
    width: int = 1024, blocks: int = 24, grid: int = 24, patch: int = 16, features: int = 256
) -> dict[str, tuple[int, ...]]:
    """All of them; the released network by default, whose three encoders are ViT-L/16 at 384."""
    wide = (width, width, width // 2)
    found: list[Named] = []
    for prefix in ("encoder.patch_encoder", "encoder.image_encoder", "fov.encoder.0"):
        found += _encoder(prefix, width, blocks, grid, patch)
    found += _layer("fov.encoder.1", (features // 2, width))
    found += _layer("fov.downsample.0", (features // 2, features, 3, 3))
    found += _layer("fov.head.0", (features // 4, features // 2, 3, 3))
    found += _layer("fov.head.2", (features // 8, features // 4, 3, 3))
    found += _layer("fov.head.4", (1, features // 8, (grid - 1) // 4 + 1, (grid - 1) // 4 + 1))
    found += _upsamplings(width, wide, features)
    found += _decoder(wide, features)
    found += _layer("head.0", (features // 2, features, 3, 3))
    found += _layer("head.1", (features // 2, features // 2, 2, 2))
    found += _layer("head.2", (32, features // 2, 3, 3))
    found += _layer("head.4", (1, 32, 1, 1))
    return dict(found)


def _layer(name: str, weight: tuple[int, ...]) -> Iterator[Named]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", (weight[0],)


def _encoder(prefix: str, width: int, blocks: int, grid: int, patch: int) -> Iterator[Named]:
    yield f"{prefix}.cls_token", (1, 1, width)
    yield f"{prefix}.pos_embed", (1, grid * grid + 1, width)
    yield from _layer(f"{prefix}.patch_embed.proj", (width, 3, patch, patch))
    for block in (f"{prefix}.blocks.{index}" for index in range(blocks)):
        for number in (1, 2):
            yield from _layer(f"{block}.norm{number}", (width,))
            yield f"{block}.ls{number}.gamma", (width,)
        yield from _layer(f"{block}.attn.qkv", (3 * width, width))
        yield from _layer(f"{block}.attn.proj", (width, width))
        yield from _layer(f"{block}.mlp.fc1", (4 * width, width))
        yield from _layer(f"{block}.mlp.fc2", (width, 4 * width))
    yield from _layer(f"{prefix}.norm", (width,))


def _upsamplings(width: int, wide: tuple[int, ...], features: int) -> Iterator[Named]:
    """From fine to coarse: a projection, then doublings, all without bias."""
    for name, size, doublings in (
        ("upsample_latent0", features, 3),
        ("upsample_latent1", features, 2),
        ("upsample0", wide[2], 1),
        ("upsample1", wide[1], 1),
        ("upsample2", wide[0], 1),
    ):
        yield f"encoder.{name}.0.weight", (size, width, 1, 1)
        for index in range(doublings):
            yield f"encoder.{name}.{index + 1}.weight", (size, size, 2, 2)
    yield from _layer("encoder.upsample_lowres", (wide[0], wide[0], 2, 2))
    yield from _layer("encoder.fuse_lowres", (wide[0], 2 * wide[0], 1, 1))


def _decoder(wide: tuple[int, ...], features: int) -> Iterator[Named]:
    """Level 0 is the finest: it needs neither a projection nor a doubling."""
    for level, size in enumerate((features, wide[2], wide[1], wide[0]), start=1):
        yield f"decoder.convs.{level}.weight", (features, size, 3, 3)
    for level in range(5):
        block = f"decoder.fusions.{level}"
        for residual in (1, 2):
            for convolution in (1, 3):
                name = f"{block}.resnet{residual}.residual.{convolution}"
                yield from _layer(name, (features, features, 3, 3))
        if level:
            yield f"{block}.deconv.weight", (features, features, 2, 2)
        yield from _layer(f"{block}.out_conv", (features, features, 1, 1))
