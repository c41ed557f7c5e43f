"""Every reason for which a single object is quarantined; docs/reference/errors.md is its print."""

from __future__ import annotations

from dataclasses import dataclass

from cluster import search


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One reason, in sentences."""

    meaning: str
    cause: str
    """How objects usually come to it."""
    cure: str


CATALOGUE_CODES: dict[str, ErrorCode] = {
    "missing_id": ErrorCode(
        "The row has no identifier.",
        "An empty cell, or a join that found no partner.",
        "Give every row a unique identifier.",
    ),
    "duplicate_id": ErrorCode(
        "An earlier row has the same identifier; that one is kept.",
        "Overlapping tables were joined end to end.",
        "Make the identifiers unique, or drop one of the rows.",
    ),
    "bad_coordinates": ErrorCode(
        "RA or Dec is infinite, out of range (RA -180 to 360, Dec -90 to 90 degrees), or only one "
        "of them is given.",
        "Hours or radians taken for degrees, swapped columns, or a number that stands for unknown.",
        "Correct the row, or leave both empty: the object is then explained but is on no sky map.",
    ),
}
"""What is wrong with the catalogue's row, seen when planning."""

FILE_CODES: dict[str, ErrorCode] = {
    "missing_file": ErrorCode(
        "The row's file does not exist, is a dangling link, or cannot be told by the identifier "
        "alone.",
        "The file was never fetched, or the catalogue's paths start elsewhere.",
        "Add the file, or correct the path column.",
    ),
    "path_outside_survey": ErrorCode(
        "The row's path leads out of the survey's folder.",
        "An absolute path of another machine, or `..` in a path.",
        "Move the file into the folder, or set survey.path to a folder that holds all files.",
    ),
    "not_a_file": ErrorCode(
        "The path is a folder, a pipe or a device.",
        "A folder that bears the name of a cutout.",
        "Put a regular file there.",
    ),
    "unreadable_file": ErrorCode(
        "The file may not be read.",
        "Permissions of another user or group.",
        "Correct its permissions.",
    ),
    "empty_file": ErrorCode(
        "The file has no bytes.",
        "A download that failed, or a full disk at that time.",
        "Fetch it again.",
    ),
    "too_large": ErrorCode(
        "The file, the image that its header declares, or what it unpacks to is over the limit for "
        "one cutout.",
        "A whole exposure in place of a cutout, a damaged header, or a decompression bomb.",
        "Cut out a smaller region.",
    ),
    "changed_file": ErrorCode(
        "The file, or the row's content, is not what was there when the run was planned.",
        "It was fetched again, mended or replaced while the run was going on.",
        "Start a new run, with another output.",
    ),
}
"""What is wrong with the file as a whole."""

CONTENT_CODES: dict[str, ErrorCode] = {
    "wrong_format": ErrorCode(
        "The file's content is not of the survey's format, whatever its name says.",
        "An error page saved under the name of a cutout, or another format.",
        "Convert it, or correct survey.format.",
    ),
    "truncated_file": ErrorCode(
        "The file ends early.",
        "A transfer that broke off, or a full disk.",
        "Fetch it again.",
    ),
    "corrupt_file": ErrorCode(
        "The header or the data are damaged.",
        "A bit that flipped on disk or on the way, or a faulty writer.",
        "Fetch the file again.",
    ),
    "checksum_mismatch": ErrorCode(
        "The checksum that is stored in the file disagrees with its bytes.",
        "A bit that flipped, or an edit that left the checksum as it was.",
        "Fetch the file again.",
    ),
    "missing_hdu": ErrorCode(
        "The FITS file lacks the extension of survey.hdu.",
        "Files of several pipelines in one folder.",
        "Correct survey.hdu, or write the extension.",
    ),
    "no_image": ErrorCode(
        "There is no image in the file, or one without pixels.",
        "A FITS file that holds a table only.",
        "Correct survey.hdu, or fetch the file again.",
    ),
    "wrong_dimensions": ErrorCode(
        "The image is neither (y, x) nor (band, y, x).",
        "A data cube, or a spectrum.",
        "Write it with two or three axes.",
    ),
    "animated_image": ErrorCode(
        "The file holds several frames.",
        "An animated PNG.",
        "Save the frame that is meant.",
    ),
    "unsupported_depth": ErrorCode(
        "A colour image has 16 bits a channel, of which half would be lost.",
        "Export from an image editor.",
        "Save it with 8 bits, or as FITS.",
    ),
    "missing_row": ErrorCode(
        "The array or table has no such row.",
        "It was replaced by another one after the catalogue was read.",
        "Read the survey's catalogue again.",
    ),
    "missing_chunk": ErrorCode(
        "The part of the array that holds the image was never written, or is lost.",
        "A job that wrote the survey was cut off, or a file of the store was deleted.",
        "Write it again.",
    ),
    "missing_array": ErrorCode(
        "The file lacks the dataset of survey.array, or any of the usual names.",
        "Files of several pipelines in one folder.",
        "Correct survey.array, or write the dataset.",
    ),
    "outside_link": ErrorCode(
        "The dataset is a link, a virtual dataset or lies in external files, none of which is "
        "followed.",
        "A file that was made to save space beside others.",
        "Copy the dataset into the file, as with h5repack.",
    ),
    "wrong_type": ErrorCode(
        "The values are no plain numbers: Python objects (which only a pickle could hold), text or "
        "records.",
        "An array of arrays of several shapes, saved with pickle.",
        "Save the image as an array of numbers.",
    ),
    "unknown_codec": ErrorCode(
        "The data are compressed by a filter that would have to be loaded as a plugin.",
        "A file that was written with a compression of its own.",
        "Repack it with gzip, as with h5repack.",
    ),
}
"""What is wrong with the file's content."""

PIXEL_CODES: dict[str, ErrorCode] = {
    "wrong_bands": ErrorCode(
        "The number of bands is not what the network (or else the first readable object) has.",
        "A missing band, or bands last where they belong first.",
        "Leave the object out, or write the bands that are meant, band first.",
    ),
    "wrong_shape": ErrorCode(
        "Height and width are not those of the first readable object.",
        "A cutout at the edge of an exposure, or of another pixel scale.",
        "Set preprocess.size to resize all objects to one shape.",
    ),
    "non_finite_pixels": ErrorCode(
        "Some pixels are NaN or infinite.",
        "Masked pixels, saturated stars, or the edge of the footprint.",
        "Set survey.nan to the value that shall take their place, or mend the file.",
    ),
    "no_finite_pixels": ErrorCode(
        "Every pixel is NaN or infinite.",
        "A position outside the footprint.",
        "Leave the object out, or mend it.",
    ),
    "constant_image": ErrorCode(
        "Every pixel has the same value, so there is nothing to explain.",
        "A position outside the footprint that was filled with zeros.",
        "Leave the object out, or mend it.",
    ),
}
"""What is wrong with pixels that can be read."""

WORK_CODES: dict[str, ErrorCode] = {
    "non_finite_output": ErrorCode(
        "The network's output for the object, or an attribution of it, is NaN or infinite although "
        "its pixels are finite.",
        "Pixels far outside of what the network was trained on, or float16 that overflows.",
        "Check network.preprocess and the weights, or use precision float32.",
    ),
    search.FAILED: ErrorCode(
        "Its unit fails with the object, and so does the object alone; without it, the unit is "
        "computed.",
        "A network's own code that raises an error for some images.",
        "Read the reason in quarantine.csv, and mend the network or leave the object out.",
    ),
    search.DIED: ErrorCode(
        "Every replica that computes the object dies, also when it computes nothing else.",
        "A library that crashes on a damaged file or an unusual image.",
        "Look at the object's file, and leave it out or report the crash.",
    ),
    search.HUNG: ErrorCode(
        "No replica that computes the object answers within execution.unit_timeout, also when it "
        "computes nothing else.",
        "An endless loop in a network's own code, or a file system that never answers.",
        "Look at the object's file and the network, or raise execution.unit_timeout.",
    ),
    "training_diverged": ErrorCode(
        "A fit of several came to a loss that is not finite; it has no network. The id is what the "
        "fit sets.",
        "A learning rate that is too high for the architecture or its first weights.",
        "Leave the fit out of vary, or lower fit.learning_rate.",
    ),
}
"""What goes wrong when readable objects are explained or learned from."""

CODE_GROUPS: dict[str, dict[str, ErrorCode]] = {
    "The catalogue's row": CATALOGUE_CODES,
    "The file": FILE_CODES,
    "The file's content": CONTENT_CODES,
    "The pixels": PIXEL_CODES,
    "The work": WORK_CODES,
}
"""All codes by what is to blame."""

ERROR_CODES: dict[str, ErrorCode] = {
    code: text for group in CODE_GROUPS.values() for code, text in group.items()
}
"""All codes; a `ReadFailure` with any other one can't be made."""
