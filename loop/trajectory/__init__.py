"""Pictures of a crystal appearing from noise: an animated GIF, and HTML with a slider."""

from matterloop.loop.trajectory.gif import write_gif
from matterloop.loop.trajectory.html import write_html

__all__ = ["write_gif", "write_html"]
