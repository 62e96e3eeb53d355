// What the theme leaves out for readers without a mouse.
addEventListener("load", () => {
  // What is wider than its box can be scrolled by keyboard, too.
  const observer = new ResizeObserver((boxes) => {
    for (const { target } of boxes) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) observer.observe(box);
  // A copy button is no landmark.
  for (const nav of document.querySelectorAll(".md-code__nav")) nav.setAttribute("role", "none");
});
