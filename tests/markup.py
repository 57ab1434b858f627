"""A parser for tests of notebook reprs, and the tags they may contain."""

from html.parser import HTMLParser

EVIL = "<script>alert('&')</script>"


class Table(HTMLParser):
    """Parses HTML into rows of cells, and collects its tags."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.open = [], set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def functions(self):
        """Return the rows of the table of functions."""
        return self.rows[self.rows.index(HEAD) :]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1][-1] += data


OURS = {"p", "b", "br", "table", "thead", "tbody", "tr", "th", "td", "span", "div", "details", "summary"}
OURS |= {"svg", "rect", "path", "g", "title", "text", "tspan", "ul", "li", "code"}

HEAD = ["function", "code", "dependencies", "cost", "node"]
