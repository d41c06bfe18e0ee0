// Pictures with what tools and answers say of them, as SVG. Text only ever enters as text nodes.
const SVG = "http://www.w3.org/2000/svg";
const SHOWN = 448;
const EDGES = [
  [0, 1], [0, 2], [0, 3], [1, 6], [1, 7], [2, 5],
  [2, 7], [3, 5], [3, 6], [4, 5], [4, 6], [4, 7],
]; // Corners in Open3D's order, as toolshed/replies.py has them.

function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  made.append(...children.filter(Boolean));
  return made;
}

const shots = (document.querySelector("#thumbnails")?.textContent ?? "").split("\n").filter(Boolean);

function shotOf(number) {
  if (!(number in shots)) return null;
  const [width, height, data] = shots[number].split(" ");
  return { width: +width, height: +height, source: `data:image/webp;base64,${data}` };
}

let numMasks = 0;

class Sheet {
  constructor(number) {
    const shot = shotOf(number);
    const [width, height] = shot ? [shot.width, shot.height] : [4, 3];
    const scale = SHOWN / Math.max(width, height);
    this.width = width * scale;
    this.height = height * scale;
    this.root = svg("svg", { viewBox: `0 0 ${this.width} ${this.height}`, class: "shot", role: "img" });
    this.root.style.aspectRatio = `${width} / ${height}`;
    if (shot) {
      this.image(shot.source);
      return;
    }
    this.root.append(svg("rect", { width: "100%", height: "100%", class: "gone" }));
    const words = number === undefined ? "no picture" : "the picture's file was not found";
    this.root.append(this.text(this.width / 2, this.height / 2, words, "lost"));
  }

  image(source, filter) {
    const attributes = {
      href: source, width: this.width, height: this.height, preserveAspectRatio: "none",
    };
    if (filter) Object.assign(attributes, { filter, class: "map" });
    this.root.append(svg("image", attributes));
  }

  text(x, y, words, style) {
    const made = svg("text", { x, y, class: style });
    made.textContent = words;
    return made;
  }

  place([u, v]) {
    return [u * this.width, v * this.height];
  }

  label(point, words) {
    const [x, y] = this.place(point);
    const width = 7.2 * words.length + 10;
    const left = Math.min(Math.max(x + 12, 2), this.width - width - 2);
    const top = Math.min(Math.max(y - 20, 2), this.height - 20);
    this.root.append(svg("rect", { x: left, y: top, width, height: 18, rx: 4, class: "plate" }));
    this.root.append(this.text(left + 5, top + 13, words, "plated"));
  }

  disc(point, style, radius = 6) {
    const [cx, cy] = this.place(point);
    this.root.append(svg("circle", { cx, cy, r: radius, class: `disc ${style}` }));
  }

  path(chains, style, closed) {
    const lines = chains.map((chain) => {
      const places = chain.map((point) => this.place(point).map((x) => x.toFixed(1)).join(" "));
      return `M${places.join(" L")}${closed ? " Z" : ""}`;
    });
    // All white borders first, so that none runs across another line.
    for (const layer of ["under", "over"]) {
      this.root.append(svg("path", { d: lines.join(" "), class: `${layer} ${style}` }));
    }
  }

  mask(raster, style) {
    const id = `mask-${(numMasks += 1)}`;
    const source = `data:image/png;base64,${raster}`;
    const size = { width: this.width, height: this.height };
    const image = svg("image", { href: source, ...size, preserveAspectRatio: "none" });
    this.root.append(svg("mask", { id }, image));
    this.root.append(svg("rect", { ...size, mask: `url(#${id})`, class: `fill ${style}` }));
  }

  draw(drawing, style) {
    const points = drawing.points ?? [];
    if (drawing.shape === "points") {
      points.forEach((point, number) => {
        this.disc(point, style);
        if (points.length > 1) this.label(point, String(number + 1));
      });
    } else if (drawing.shape === "mask") {
      if (drawing.raster) this.mask(drawing.raster, style);
      points.forEach((point) => this.disc(point, "seen", 4));
    } else if (drawing.shape === "depth" && drawing.raster) {
      this.image(`data:image/png;base64,${drawing.raster}`, "url(#ramp)");
      this.label([0.01, 0.99], `${(drawing.low ?? 0).toFixed(2)}–${(drawing.high ?? 0).toFixed(2)} m`);
    } else if (drawing.shape === "value" && points.length) {
      this.disc(points[0], "read", 4);
      const unit = drawing.label === "depth_map" ? " m" : "";
      this.label(points[0], `${(drawing.low ?? 0).toFixed(2)}${unit}`);
    } else if (drawing.shape === "box" && points.length === 8) {
      this.path(EDGES.map(([a, b]) => [points[a], points[b]]), style);
    } else if (drawing.shape === "outline") {
      this.path([points], style, true);
      if (points.length < 3) points.forEach((point) => this.disc(point, style, 4));
    } else if (drawing.shape === "grasp" && points.length === 5) {
      const [centre, left, right, leftTip, rightTip] = points;
      this.path([[leftTip, left, right, rightTip]], style);
      this.disc(centre, style, 4);
    } else if (drawing.label) {
      this.label([0.01, 0.06], drawing.label);
    }
    return this;
  }

  finished(words) {
    this.root.setAttribute("aria-label", words);
    return this.root;
  }
}
