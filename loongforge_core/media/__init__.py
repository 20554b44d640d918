"""Files of images and sounds -> pixels and samples, for any processor; what is damaged is a DataError that names it. Imports no torch."""
