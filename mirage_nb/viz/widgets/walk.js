function render({ model, el }) {
  // The attribute data-lm-suppress-shortcuts keeps JupyterLab from using the arrow keys itself.
  el.innerHTML = `<div class="mirage-walk-keys" tabindex="0" role="application" data-lm-suppress-shortcuts="true"
    aria-label="The room: click, then walk with the arrow keys"><img class="mirage-walk-picture"></div>`;
  const box = el.firstChild, image = box.firstChild;
  function draw() {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(new Blob([model.get("picture")]));
    image.dataset.frames = model.get("frames");
  }
  model.on("change:picture", draw);
  draw();
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!model.get("listens").includes(key)) return;
    event.preventDefault();
    event.stopPropagation();
    // A trait and not a message: a held key is then sent once the press before it is done.
    model.set("pressed", [key, model.get("pressed")[1] + 1]);
    model.save_changes();
  });
  box.addEventListener("click", () => box.focus());
  return () => { model.off("change:picture", draw); URL.revokeObjectURL(image.src); };
}
export default { render };
