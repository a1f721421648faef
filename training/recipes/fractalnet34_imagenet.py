"""FractalNet-34 on ImageNet (Table 2): ResNet-34's first and last layer around B = 4, C = 4; 164 M parameters.

70 epochs, batch 32, rate 0.001, divided by 10 after 50 and 65; measured with ten crops. Left open by the paper, our
choices: block 4 does not pool, so that the average is over 7x7 positions, as in ResNet-34; images are brought to 256
pixels and cropped to 224 at random places, mirrored half of the time; local and global drop-path half and half, no
dropout, no weight decay.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="fractalnet34_imagenet",
    columns=4,
    channels=(128, 256, 512, 1024),
    net_options={"stem": "imagenet", "last_pool": False},
    draws={"local": 0.5, "column": 0.5},
    epochs=70,
    batch=32,
    rate=0.001,
    schedule="steps",
    drops=(50 / 70, 65 / 70),
    augmentation="+",
    image_size=256,
    crop=224,
)
