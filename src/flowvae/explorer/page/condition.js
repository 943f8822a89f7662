// What the model is conditioned on, as a person sets it: a control for each column.

/** The condition y (C,) that is decoded under; `onChange` is called when a person changes it. */
export class ConditionView {
  constructor(spec, place, onChange) {
    this.columns = spec === null ? [] : spec.columns;
    this.y = spec === null ? null : new Float32Array(spec.dim);
    this.controls = this.columns.map((column) => control(column));
    place.hidden = this.columns.length === 0;
    let start = 0;
    this.columns.forEach((column, i) => {
      const from = start;
      start += column.kind === "categorical" ? column.categories.length : 1;
      const label = document.createElement("label");
      label.append(`${column.name} `, this.controls[i]);
      place.append(label);
      this.controls[i].addEventListener("change", () => {
        const encoded = encode(column, this.controls[i]);
        if (encoded.every(Number.isFinite)) {
          this.y = Float32Array.from(this.y);
          this.y.set(encoded, from);
          onChange();
        } else this.show();
      });
      this.controls[i].dataset.from = from;
    });
    this.show();
  }

  /** That of a test datum. */
  set(y) {
    if (y === null) return;
    this.y = Float32Array.from(y);
    this.show();
  }

  /** Which class it is, of one column of them; else 0. */
  get code() {
    const [column] = this.columns;
    return this.columns.length === 1 && column.kind !== "numeric" ? codeOf(column, this.y, 0) : 0;
  }

  show() {
    this.columns.forEach((column, i) => {
      const from = Number(this.controls[i].dataset.from);
      if (column.kind === "numeric") {
        const value = this.y[from] * column.scale + column.mean;
        this.controls[i].value = Number(value.toPrecision(6));
      } else this.controls[i].selectedIndex = codeOf(column, this.y, from);
    });
  }
}

function control({ kind, categories, scale }) {
  if (kind === "numeric") {
    const input = document.createElement("input");
    Object.assign(input, { type: "number", step: "any", title: `deviation ${scale}` });
    return input;
  }
  const select = document.createElement("select");
  categories.forEach((name, i) => select.add(new Option(name, i)));
  return select;
}

function encode({ kind, categories, mean, scale }, input) {
  if (kind === "numeric") return [(input.valueAsNumber - mean) / scale];
  if (kind === "binary") return [input.selectedIndex];
  return categories.map((_, i) => (i === input.selectedIndex ? 1 : 0));
}

function codeOf({ kind, categories }, y, from) {
  if (kind === "binary") return y[from] > 0.5 ? 1 : 0;
  const own = Array.from(y.subarray(from, from + categories.length));
  return own.indexOf(Math.max(...own));
}
