// A grid of any length that draws only the rows in sight, a few above and below. 100,000 items cost what 100 cost.
import { classes, html, useEffect, useLayoutEffect, useRef, useState } from "../lib/html.js";

const GAP = 8;
const SPARE_ROWS = 2;

/**
 * total: how many cells there are. minCell: their least width in pixels. render(index): one cell's content.
 * onRange(first, last): which cells are drawn, once that has stayed so for a moment.
 */
export function WindowGrid({ total, minCell, label, render, onRange, onOpen, onToggle, isSelected, openIndex = null, resetKey, children }) {
  const scroller = useRef();
  const [layout, setLayout] = useState({ columns: 1, cell: minCell, height: 0 });
  const [top, setTop] = useState(0); // the first row drawn
  const [active, setActive] = useState(-1);
  const row = layout.cell + GAP;
  const rows = Math.ceil(total / layout.columns);

  useLayoutEffect(() => {
    const measure = () => {
      const style = getComputedStyle(scroller.current.firstElementChild);
      const width = scroller.current.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
      const least = width < 480 ? minCell * 0.8 : minCell; // a phone: three across rather than two
      const columns = Math.max(2, Math.floor((width + GAP) / (least + GAP)));
      const cell = Math.floor((width - GAP * (columns - 1)) / columns);
      setLayout({ columns, cell, height: scroller.current.clientHeight });
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(scroller.current);
    return () => observer.disconnect();
  }, [minCell]);

  useEffect(() => {
    scroller.current.scrollTop = 0;
    setTop(0);
    setActive(-1);
  }, [resetKey]);

  const visible = Math.ceil(layout.height / row) + 1;
  const first = Math.max(0, Math.min(top, rows - 1) - SPARE_ROWS);
  const last = Math.min(rows, top + visible + SPARE_ROWS);
  const from = first * layout.columns;
  const to = Math.min(total, last * layout.columns);

  const rowNow = useRef(row);
  rowNow.current = row;
  useEffect(() => {
    let frame = 0;
    const onScroll = () => {
      if (frame) return;
      frame = requestAnimationFrame(() => {
        frame = 0;
        setTop(Math.floor(scroller.current.scrollTop / rowNow.current));
      });
    };
    scroller.current.addEventListener("scroll", onScroll, { passive: true });
    return () => {
      cancelAnimationFrame(frame);
      scroller.current?.removeEventListener("scroll", onScroll);
    };
  }, []);

  // pages are asked for once the rows in sight stay for a moment: a fling through 100,000 asks for the last page only
  useEffect(() => {
    if (!total) return undefined;
    const timer = setTimeout(() => onRange?.(from, to), 70);
    return () => clearTimeout(timer);
  }, [from, to, total, resetKey, onRange]);

  const moveTo = (index) => {
    const at = Math.max(0, Math.min(total - 1, index));
    setActive(at);
    const y = Math.floor(at / layout.columns) * row;
    const { scrollTop, clientHeight } = scroller.current;
    if (y < scrollTop) scroller.current.scrollTop = y;
    else if (y + row > scrollTop + clientHeight - GAP) scroller.current.scrollTop = y + row - clientHeight + 2 * GAP;
  };

  const onKeyDown = (event) => {
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, visible - 2) * layout.columns;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: layout.columns, ArrowUp: -layout.columns, PageDown: page, PageUp: -page };
    const seen = Math.min(total - 1, Math.round(scroller.current.scrollTop / row) * layout.columns); // the first in sight: a focus scrolls by the padding
    const at = active < 0 ? seen : active;
    if (event.key in steps) moveTo(active < 0 ? seen : active + steps[event.key]);
    else if (event.key === "Home") moveTo(0);
    else if (event.key === "End") moveTo(total - 1);
    else if (total && (event.key === "Enter" || event.key === " ")) {
      moveTo(at);
      if (event.key === "Enter") onOpen?.(at);
      else onToggle?.(at, event);
    } else return;
    event.preventDefault();
  };

  const cells = [];
  for (let index = from; index < to; index++) {
    const selected = isSelected?.(index) ?? false;
    cells.push(
      html`<div
        key=${index}
        id=${`cell-${index}`}
        role="option"
        class=${classes("cell", { active: index === active, open: index === openIndex })}
        aria-selected=${selected ? "true" : "false"}
        aria-setsize=${total}
        aria-posinset=${index + 1}
        onClick=${(event) => {
          setActive(index);
          if (event.ctrlKey || event.metaKey || event.shiftKey) onToggle?.(index, event);
          else onOpen?.(index);
        }}
      >
        ${render(index, { selected, toggle: (event) => (event.stopPropagation(), onToggle?.(index, event)) })}
      </div>`,
    );
  }
  // sizes go in through the style object (CSSOM): the content security policy allows no style attributes in HTML
  const board = {
    gridTemplateColumns: `repeat(${layout.columns}, ${layout.cell}px)`,
    gridAutoRows: `${layout.cell}px`,
    gap: `${GAP}px`,
    transform: `translateY(${first * row}px)`,
  };
  return html`<div class="grid-scroller" ref=${scroller}>
    <div class="grid-body">
      ${children}
      <div
        class="grid-listbox"
        role="listbox"
        aria-label=${label}
        aria-multiselectable="true"
        aria-activedescendant=${active >= from && active < to ? `cell-${active}` : undefined}
        tabindex="0"
        style=${{ height: `${Math.max(0, rows * row - GAP)}px` }}
        onKeyDown=${onKeyDown}
      >
        <div class="grid-board" role="presentation" style=${board}>${cells}</div>
      </div>
    </div>
  </div>`;
}
