// What the theme leaves to be wished for by those who read without a mouse or a screen: whatever scrolls sideways can be
// reached with the keyboard, and the captions of the table of contents say which level of headings they are.
for (const wide of document.querySelectorAll(".table-wrapper, pre")) {
  if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
}
for (const caption of document.querySelectorAll('p.caption[role="heading"]')) caption.setAttribute("aria-level", "2");
