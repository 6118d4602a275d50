// Files from a drop, a chooser or the clipboard; folders are walked through.
const PICTURE = /\.(png|jpe?g|webp|gif|bmp|tiff?|heic|heif|avif|jxl|svg|ppm|pgm|ico|tga)$/i;
const ARCHIVE = /\.(zip|parquet)$/i;

export const isPicture = (file) => file.type.startsWith("image/") || PICTURE.test(file.name);
export const isArchive = (file) => ARCHIVE.test(file.name);

/** All files of a drop, those in folders too. */
export async function droppedFiles(transfer) {
  // entries and files must be taken before the first await: the browser empties the transfer after the event
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const flat = [...transfer.files];
  if (!entries.some((entry) => entry.isDirectory)) return flat;
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // up to 100 a call
    if (!some.length) return;
    for (const inner of some) await walk(inner, found);
  }
}

/** Sorts files for adding: pictures, archives, captions beside pictures (apple.txt for apple.png), and the rest. */
export function sortFiles(files) {
  const pictures = files.filter((file) => isPicture(file) && !file.name.startsWith("."));
  const archives = files.filter(isArchive);
  const stems = new Set(pictures.map(stemOf));
  const captions = new Map();
  const others = [];
  for (const file of files) {
    if (isPicture(file) || isArchive(file) || file.name.startsWith(".")) continue;
    if (/\.txt$/i.test(file.name) && stems.has(stemOf(file))) captions.set(stemOf(file), file);
    else others.push(file);
  }
  return { pictures, archives, captions, others };
}

export const stemOf = (file) => (file.webkitRelativePath || file.name).replace(/\.[^./]*$/, "");

/** Opens the browser's chooser and answers with what was picked. */
export function chooseFiles({ accept = "", multiple = false, folder = false } = {}) {
  return new Promise((resolve) => {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", accept, multiple, webkitdirectory: folder });
    input.addEventListener("change", () => resolve([...input.files]));
    input.addEventListener("cancel", () => resolve([]));
    input.click();
  });
}

/** Hands a file to the browser's downloads. */
export function download(href, name) {
  const link = document.createElement("a");
  link.href = href;
  link.download = name;
  link.click();
}

export function downloadBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  download(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
