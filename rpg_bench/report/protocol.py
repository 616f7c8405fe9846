"""How the runs of a table were trained, in one sentence."""

from __future__ import annotations

from rpg_bench.report.experiments import Case

DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
# As timm names them.
OPTIMIZERS = {"sgd": "SGD with Nesterov momentum", "momentum": "SGD with momentum", "adamw": "AdamW"}
SCHEDULES = {"constant": "constant", "one_cycle": "one cycle", "cosine": "cosine", "multistep": "steps"}


def protocol(case: Case, *, rate: bool = True) -> str:
    """Data, pixels, stem, batch, optimizer, schedule and augmentation.

    Args:
        case: whose training is told.
        rate: with the learning rate; without, where it differs within the table.
    """
    data, recipe, optimizer = case.config.dataset, case.config.recipe, case.config.optimizer
    pixels = f"{data.image_size}x{data.image_size} pixels"
    if recipe.train_sizes:
        pixels += f" (training images grow: {', '.join(map(str, recipe.train_sizes))})"
    schedule = SCHEDULES.get(recipe.schedule.name, recipe.schedule.name)
    parts = [
        f"{recipe.epochs} epochs of {DATA.get(data.name, data.name)} at {pixels}",
        f"`{recipe.stem}` stem" if recipe.stem and case.config.backbone.name.startswith("resnet") else "",
        f"patch {case.config.backbone.patch_size}" if case.config.backbone.patch_size else "",
        f"batch {recipe.batch_size}",
        OPTIMIZERS.get(optimizer.name, optimizer.name),
        f"learning rate {optimizer.lr:g} ({schedule})" if rate else f"schedule {schedule}",
        f"weight decay {optimizer.weight_decay:g}",
        f"label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else "",
        *_augmentation(case),
        {"bf16": "bfloat16", "fp32": "float32"}.get(recipe.precision, recipe.precision),
    ]
    return f"{', '.join(filter(None, parts))}."


def _augmentation(case: Case) -> list[str]:
    augment = case.config.recipe.augment
    return [
        word
        for word, used in {
            "crops": augment.crop_padding > 0,
            "random resized crops": augment.random_resized_crop,
            "flips": augment.flip,
            "mixup": augment.mixup > 0,
            "cutmix": augment.cutmix > 0,
        }.items()
        if used
    ] or ["no augmentation"]
