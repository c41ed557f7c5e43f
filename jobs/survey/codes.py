"""Every reason for which a single object is quarantined: its code, its meaning and its cure."""

from __future__ import annotations

ERROR_CODES: dict[str, str] = {
    # The catalogue's row.
    "missing_id": "The row has no identifier. Give every row a unique one.",
    "duplicate_id": (
        "An earlier row has the same identifier; that one is kept. "
        "Make the identifiers unique or drop one of the rows."
    ),
    "bad_coordinates": (
        "RA or Dec is infinite, out of range (RA -180 to 360, Dec -90 to 90 degrees), or only one "
        "of them is given. Correct the row, or leave both empty: the object is then explained but "
        "is on no sky map."
    ),
    # The file.
    "missing_file": (
        "The row's file does not exist, is a dangling link, or cannot be told by the identifier "
        "alone. Add the file, or correct the path column."
    ),
    "path_outside_survey": (
        "The row's path leads out of the survey's folder. Move the file into it, or set "
        "survey.path to a folder that holds all files."
    ),
    "not_a_file": "The path is a folder, a pipe or a device. Put a regular file there.",
    "unreadable_file": "The file may not be read. Correct its permissions.",
    "empty_file": "The file has no bytes. Fetch it again.",
    "too_large": (
        "The file, or the image that its header declares, is over the limit for one cutout. "
        "Cut out a smaller region."
    ),
    # Its content.
    "wrong_format": (
        "The file's content is not of the survey's format, whatever its name says. Convert it, or "
        "correct survey.format."
    ),
    "truncated_file": "The file ends early. Fetch it again.",
    "corrupt_file": "The header or the data are damaged. Fetch the file again.",
    "checksum_mismatch": (
        "The checksum that is stored in the file disagrees with its bytes. Fetch the file again."
    ),
    "missing_hdu": "The FITS file lacks the extension of survey.hdu. Correct survey.hdu.",
    "no_image": "There is no image in the file, or one without pixels. Correct survey.hdu.",
    "wrong_dimensions": (
        "The image is neither (y, x) nor (band, y, x). Write it with two or three axes."
    ),
    "animated_image": "The file holds several frames. Save the one that is meant.",
    "unsupported_depth": (
        "A colour image has 16 bits a channel, of which half would be lost. Save it with 8 bits, "
        "or as FITS."
    ),
    "missing_row": "The simulation has no such row. Read the run's catalogue again.",
    # Its meaning.
    "wrong_bands": (
        "The number of bands is not what the network (or else the first readable object) has. "
        "Leave the object out, or write the bands that are meant, band first."
    ),
    "wrong_shape": (
        "Height and width are not those of the first readable object. Set preprocess.size to "
        "resize all objects to one shape."
    ),
    "non_finite_pixels": (
        "Some pixels are NaN or infinite. Set survey.nan to the value that shall take their "
        "place, or mend the file."
    ),
    "no_finite_pixels": "Every pixel is NaN or infinite. Leave the object out, or mend it.",
}
"""Code to meaning and cure; a `ReadFailure` with any other code can't be made."""
