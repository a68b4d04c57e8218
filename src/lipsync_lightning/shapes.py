"""The letters of tensor names: `frames_BTCHW` is a tensor of clips, video frames, channels, height and width.

Between functions, video is always BTCHW, float in [-1, 1]; only wrappers in `models/` change the layout.

    B  clips in a batch
    T  video frames of a clip
    N  B * T, folded
    C  channels
    H  height
    W  width
    M  mel bins
    L  mel columns
    A  audio tokens per video frame
    D  features
    K  chunks of sound, as an encoder takes them
    R  rows of states, along time
"""
