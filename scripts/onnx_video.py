"""A video through what `tecogan export` has written, without torch: python onnx_video.py tecogan.onnx in.mp4 out.mp4

It needs onnxruntime, av and numpy. Sound is not copied, and the frame rate is taken for constant.
"""

import itertools
import sys

import av
import numpy as np
import onnxruntime

network, source, result = sys.argv[1:]
session = onnxruntime.InferenceSession(network, providers=onnxruntime.get_available_providers())
about = session.get_modelmeta().custom_metadata_map
scale, warm_up, half = int(about["scale"]), int(about["warm_up"]), 0.5 * (about["rounding"] == "nearest")

with av.open(source) as video, av.open(result, "w") as output:
    frames = (frame.to_ndarray(format="rgb24") for frame in video.decode(video=0))
    head = list(itertools.islice(frames, warm_up + 1))
    height, width = head[0].shape[:2]
    stream = output.add_stream("libx264", rate=video.streams.video[0].average_rate, options={"crf": "16"})
    stream.width, stream.height, stream.pix_fmt = scale * width, scale * height, "yuv420p"
    previous_lr = np.zeros((1, 3, height, width), np.float32)
    previous_sr = np.zeros((1, 3, scale * height, scale * width), np.float32)
    warming = head[:0:-1]  # frames 5 to 1, whose results are dropped: so that frame 0 has a past, too
    for number, frame in enumerate(itertools.chain(warming, head, frames)):
        lr_frame = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
        state = {"lr_frame": lr_frame, "previous_lr": previous_lr, "previous_sr": previous_sr}
        previous_lr, previous_sr = lr_frame, session.run(["sr_frame"], state)[0]
        if number >= len(warming):
            image = (previous_sr[0].transpose(1, 2, 0) * 255 + half).clip(0, 255).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    output.mux(stream.encode())
