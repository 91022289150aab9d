"use strict";

/* Pages that are read from disk (file://) may not start workers, in which the search runs. There, a worker is a hidden
   frame instead: its scripts see `self`, `postMessage`, `onmessage` and `importScripts` as in a worker. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = null;
      this.onerror = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => setTimeout(() => this.tell(this, data));
      inside.importScripts = (...urls) => Promise.all(urls.map((each) => this.load(new URL(each, url))));
      this.ready = this.load(url);
    }

    load(url) {
      return new Promise((done, failed) => {
        const script = this.frame.contentDocument.createElement("script");
        script.src = String(url);
        script.onload = done;
        script.onerror = failed;
        this.frame.contentDocument.body.append(script);
      });
    }

    tell(target, data) {
      const event = new MessageEvent("message", { data });
      if (typeof target.onmessage === "function") target.onmessage(event);
      target.dispatchEvent(event);
    }

    postMessage(data) {
      this.ready.then(() => this.tell(this.frame.contentWindow, data));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
