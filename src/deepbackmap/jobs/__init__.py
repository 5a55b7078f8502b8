"""The one loop over frames that every verb runs, and what does the work of it.

A verb says what is done to a frame (a ``Task``), and takes the results in order. Who works on them
(this process, some processes, a cluster) and what is kept of an interrupted run are settled here.
"""
