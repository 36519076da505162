import type { Node } from "./events";
import { stateOf } from "./events";

/** One line of the outline. `guides` has a letter per level of forks: `|` goes on, `+` branches, `L` ends, space is nothing. */
export interface Row {
  readonly node: Node;
  readonly guides: string;
}

/** A node without a fork above it stands straight under its parent, so that a long reply is a column and does not drift. */
export function rowsOf(root: Node, showCut: boolean): Row[] {
  const rows: Row[] = [];
  const shown = showCut ? () => true : survivors(root);
  const stack: { node: Node; guides: string; below: string }[] = [{ node: root, guides: "", below: "" }];
  for (let at = stack.pop(); at; at = stack.pop()) {
    if (at.node !== root) rows.push({ node: at.node, guides: at.guides });
    const children = at.node.children.filter(shown);
    const forks = children.length > 1;
    for (let place = children.length - 1; place >= 0; place--) {
      const last = place === children.length - 1;
      const below = at.below;
      stack.push({
        node: children[place]!,
        guides: below + (forks ? (last ? "L" : "+") : ""),
        below: below + (forks ? (last ? " " : "|") : ""),
      });
    }
  }
  return rows;
}

/** A branch survives unless all of it was cut. */
function survivors(root: Node): (node: Node) => boolean {
  const alive = new Set<Node>();
  const stack = [root];
  for (let node = stack.pop(); node; node = stack.pop()) {
    stack.push(...node.children);
    if (stateOf(node) === "cut" || (stateOf(node) === "grown" && node.children.length > 0)) continue;
    for (let up: Node | null = node; up && !alive.has(up); up = up.parent) alive.add(up);
  }
  return (node) => alive.has(node);
}
