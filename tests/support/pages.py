"""What a page of HTML shows."""

from html.parser import HTMLParser


class Text(HTMLParser):
    """What a page shows, and what it would load."""

    def __init__(self, content: str):
        super().__init__()
        self.words, self.sources, self.open = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data.strip())
