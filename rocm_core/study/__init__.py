"""The user study: which of two models' images do people prefer, asked blind and in random order.

`python -m rocm_core.study build` makes a static page from folders of samples, `serve` collects
votes, `aggregate` summarises them, and `simulate` votes as the shapes world's gold judge would.
"""
