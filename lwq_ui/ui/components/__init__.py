"""The page's own components: each is one Python file, and HTML, JS and CSS in assets."""
