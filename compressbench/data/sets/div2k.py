"""DIV2K to train on, Set14 to test on, for super-resolution."""

from pathlib import Path

from compressbench.data.datasets import RAW, Brought, Dataset, DatasetInfo, wants
from compressbench.data.files import external_folder
from compressbench.data.super_resolution import SuperResolutionData, as_float, make_pair, read_image
from compressbench.errors import UserError

DIV2K = DatasetInfo("div2k", "super_resolution", 3, 128, 0, *RAW)


def load(folder: Path, limit: int | None, scale: int) -> SuperResolutionData:
    """DIV2K_train_HR/*.png to train on and Set14/*.png to test on, the low resolution computed here.

    The training pairs stay uint8: 800 photographs of 2 megapixels are 6 GB even so.
    """
    folder = external_folder(folder) / "div2k"
    train, test = (sorted((folder / part).glob("[!.]*.png")) for part in ("DIV2K_train_HR", "Set14"))
    if not train or not test:
        raise UserError(
            f"div2k wants PNG files in {folder}/DIV2K_train_HR and {folder}/Set14; "
            "put them there or set COMPRESSBENCH_DATA."
        )
    return SuperResolutionData(
        DIV2K,
        scale,
        [make_pair(path.stem, read_image(path), scale) for path in train[:limit]],
        [as_float(make_pair(path.stem, read_image(path), scale)) for path in test],
    )


PARTS = wants("div2k", "DIV2K_train_HR", "Set14")
DATASETS = (Dataset(DIV2K, load, brought=Brought("div2k", PARTS)),)
