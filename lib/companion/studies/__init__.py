"""The experiments of each chapter, one module a chapter: what is trained, and what is measured of it."""
