"""Training: crops from pictures and clips, people split apart, the loop, its curves (extra: ``train``)."""
