"""Sharing: a world as one HTML file that plays in a browser, with neither Python nor a network.

It knows how a game is played and what the player calls its actions; it must not know notebooks or headless
runs. Start reading at `build`, what the file is made of; then `step`, the graph that the page computes.
"""
