"""Runtime images: a wheel set and its interpreter as one squashfs file that nodes mount instead of installing.

- ``recipe``: which wheels and packages an image is made from, and the name of the result. Pure.
- ``tree``: unpacks them into one relocatable directory.
- ``image``: turns the directory into the image, once for each recipe.
- ``audit``: takes a finished image apart and compares it with the wheels beside it.
"""
