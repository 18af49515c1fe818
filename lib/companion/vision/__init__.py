"""Small vision networks at work: training with AdamW, dense prediction, spectra."""
