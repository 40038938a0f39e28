"""A page of Markdown that is written from top to bottom."""


class MarkdownPage:
    def __init__(self):
        self.lines = []

    def say(self, *paragraphs):
        self.lines += [line for p in paragraphs for line in (p, "")]

    def table(self, head, rows):
        self.lines.append("| " + " | ".join(head) + " |")
        self.lines.append("| --- |" + " ---: |" * (len(head) - 1))
        self.lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows] + [""]
