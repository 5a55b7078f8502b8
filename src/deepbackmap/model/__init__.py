"""What training writes and sampling reads: one file with everything a model needs.

``header`` needs no torch: what a model is can be listed without loading it.
"""
