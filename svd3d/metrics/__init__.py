"""Metrics as pure functions, protocols as data, reports as files.

Modules:
    images      PSNR, SSIM, MSE, mask IoU, foreground PSNR: arrays in, one value per view out
    semantic    LPIPS and CLIP-S: the same by trained networks, with the digests of their weights
    consistency whether views agree with each other where depth says that they show the same point
    geometry    Chamfer distance, F-score, normal consistency, volume IoU of two surfaces
    alignment   the frame in which they meet: as they are, by bounding box, by ICP, by a search over azimuth
    crossings   lines through triangle meshes: inside or outside, and depth maps
    peer_meshes what SyncDreamer and EscherNet measure on meshes
    catalog     name, unit, direction, range and definition of every metric
    protocols   what is compared, on which background, at which size: named, frozen, with a digest
    pairing     whether two sets of views may be compared at all, and how they come to one size
    baselines   what needs no model: the input copied, a silhouette, white, training views
    inputs      what lies at a path, and which prediction belongs to which reference
    scoring     pairs in memory to a report
    report      rows to means, intervals and paired differences
    published   what papers print, with source and protocol
    tables      a report as Markdown and LaTeX
    curves      a report view by view, as SVG
    page        a report as a self-contained HTML page
"""
