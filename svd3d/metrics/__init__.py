"""Metrics as pure functions, protocols as data, reports as files.

Modules:
    images      PSNR, SSIM, MSE, mask IoU, foreground PSNR: arrays in, one value per view out
    geometry    Chamfer distance, F-score, volume IoU of two surfaces
    catalog     name, unit, direction, range and definition of every metric
    protocols   what is compared, on which background, at which size: named, frozen, with a digest
    pairing     whether two sets of views may be compared at all; baselines
    report      rows to means and intervals; JSON and Markdown
    inputs      what lies at a path, and which prediction belongs to which reference
    scoring     pairs in memory to a report
    page        the same figures as a self-contained HTML page
"""
