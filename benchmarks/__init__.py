"""Speed, as ratios within one run: `make bench`. These numbers are for reading; no test asserts a second."""
