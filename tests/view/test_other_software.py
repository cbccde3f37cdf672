"""Our GLB files in other people's software: three.js and TalkingHead in Chromium, and Blender; each skipped where it is
not installed.

three.js is looked for where the Khronos validator is (NODE_PATH), Blender's module `bpy` in an environment of its own,
since it wants another numpy: CONTRIBUTING.md says how to install them.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from meshgan.data.corpora.basis import face_layout, face_template
from meshgan.model.rig import ARKIT, Rig, rig

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
THREE = next((path for place in os.environ.get("NODE_PATH", "").split(os.pathsep) if place
              and (path := Path(place, "three")).is_dir()), None)  # fmt: skip
BLENDER = Path(os.environ.get("MESHGAN_BLENDER", "~/.local/share/meshgan-tests/blender/bin/python")).expanduser()
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
TALKING = THREE and next((path for path in [THREE.parent / "@met4citizen" / "talkinghead"] if path.is_dir()), None)
EVERY = 5  # vertex that is read back

pytestmark = pytest.mark.slow

PAGE = """<script type="importmap">{"imports": {"three": "/three/build/three.module.js",
"three/addons/": "/three/examples/jsm/"}}</script>
<script type="module">
import * as THREE from 'three';
import { GLTFLoader } from 'three/addons/loaders/GLTFLoader.js';
window.look = async () => {
  const gltf = await new GLTFLoader().loadAsync('/face.glb');
  let mesh;
  gltf.scene.traverse(part => { if (part.isMesh) mesh = part });
  gltf.scene.updateMatrixWorld(true);
  const names = Object.keys(mesh.morphTargetDictionary), moved = {}, point = new THREE.Vector3();
  const read = () => {
    const found = [];
    for (let i = 0; i < mesh.geometry.attributes.position.count; i += EVERY) {
      mesh.getVertexPosition(i, point).applyMatrix4(mesh.matrixWorld);
      found.push(point.x, point.y, point.z);
    }
    return found;
  };
  moved.rest = read();
  for (const name of names) {
    mesh.morphTargetInfluences.fill(0);
    mesh.morphTargetInfluences[mesh.morphTargetDictionary[name]] = 1;
    moved[name] = read();
  }
  const renderer = new THREE.WebGLRenderer({ preserveDrawingBuffer: true });
  renderer.setSize(200, 200);
  const scene = new THREE.Scene(), camera = new THREE.OrthographicCamera(-.12, .12, .12, -.12, 0, 2);
  scene.add(gltf.scene, new THREE.HemisphereLight(0xffffff, 0x202020, 2));
  camera.position.z = 1;
  const drawn = name => {
    mesh.morphTargetInfluences.fill(0);
    if (name) mesh.morphTargetInfluences[mesh.morphTargetDictionary[name]] = 1;
    renderer.render(scene, camera);
    const gl = renderer.getContext(), pixels = new Uint8Array(4 * 200 * 200);
    gl.readPixels(0, 0, 200, 200, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    return Array.from(pixels);
  };
  return { names, moved, uv: Array.from(mesh.geometry.attributes.uv.array), still: drawn(), open: drawn('jawOpen') };
};
window.ready = true;
</script>"""

# TalkingHead animates whole bodies, so the face goes onto bones without a body; the package itself is as npm brings it.
AVATAR = """<div id="node"></div><script type="importmap">{"imports": {"three": "/three/build/three.module.js",
"three/addons/": "/three/examples/jsm/", "talkinghead": "/talkinghead/modules/talkinghead.mjs"}}</script>
<script type="module">
import * as THREE from 'three';
import { GLTFLoader } from 'three/addons/loaders/GLTFLoader.js';
import { TalkingHead } from 'talkinghead';
window.look = async () => {
  const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera();
  const head = new TalkingHead(document.getElementById('node'),
    { avatarOnly: true, avatarOnlyScene: scene, avatarOnlyCamera: camera, lipsyncModules: [] });
  const bones = new Set(head.posePropNames.map(name => name.split('.')[0]));
  for (const more of ['Head', 'LeftEye', 'RightEye', 'LeftToeBase', 'RightToeBase']) bones.add(more);
  head.ikMesh.traverse(part => { if (part.isBone) bones.add(part.name) });
  const load = GLTFLoader.prototype.loadAsync;
  let face;
  GLTFLoader.prototype.loadAsync = async function (...given) {
    const gltf = await load.apply(this, given), armature = new THREE.Group();
    gltf.scene.traverse(part => { if (part.isMesh) face = part });
    armature.name = 'Armature';
    for (const name of bones) { const bone = new THREE.Bone(); bone.name = name; armature.add(bone) }
    armature.getObjectByName('Head').add(gltf.scene.children[0]);
    gltf.scene.add(armature);
    return gltf;
  };
  await head.showAvatar({ url: '/face.glb', body: 'F', avatarMood: 'neutral' });
  const weights = () => {
    for (let i = 0; i < 200; i++) head.animate(20);
    return Object.fromEntries(Object.entries(face.morphTargetDictionary)
      .map(([name, row]) => [name, face.morphTargetInfluences[row]]));
  };
  const seen = { names: Object.keys(head.mtAvatar) };
  for (const name of NAMES) head.setFixedValue(name, 0.25);
  seen.fixed = weights();
  for (const name of NAMES) head.setFixedValue(name, null);
  head.setMood('happy');
  seen.happy = weights();
  head.setMood('sad');
  seen.sad = weights();
  return seen;
};
window.ready = true;
</script>"""

BLENDER_SAYS = """
import bpy, json, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=sys.argv[1])
mesh = next(thing.data for thing in bpy.data.objects if thing.type == 'MESH')
keys = mesh.shape_keys.key_blocks
far = {key.name: max((point.co - rest.co).length for point, rest in zip(key.data, keys[0].data)) for key in keys}
print('SAYS ' + json.dumps({'far': far, 'uv': [layer.name for layer in mesh.uv_layers], 'count': len(mesh.vertices)}))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Rig, Path]:
    path = tmp_path_factory.mktemp("rig") / "face.glb"
    made = rig(face_template())
    made.save(path)
    return made, path


def looked_at(path: Path, html: str) -> dict:
    """What a page's function `look` returns, which finds the file as /face.glb, and npm's packages by their names."""
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    packages = {"three": THREE, "talkinghead": TALKING}

    def answer(route) -> None:
        package, _, rest = route.request.url.split("/", 3)[3].partition("/")
        if package in packages:
            route.fulfill(path=packages[package] / rest, content_type="text/javascript")
        elif package == "face.glb":
            route.fulfill(path=path, content_type="model/gltf-binary")
        else:
            route.fulfill(body=html, content_type="text/html")

    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto("http://localhost/")
        page.wait_for_function("window.ready", timeout=600_000)
        page.set_default_timeout(300_000)
        seen: dict = page.evaluate("window.look()")
        browser.close()
    return seen


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: sudo apt-get install -y chromium")
@pytest.mark.skipif(THREE is None, reason="needs three.js on NODE_PATH: npm install three")
def test_three_js_moves_every_vertex_as_we_do(saved: tuple[Rig, Path]) -> None:
    made, path = saved
    seen = looked_at(path, PAGE.replace("EVERY", str(EVERY)))
    assert seen["names"] == list(made.targets)
    rows = face_layout().owner[::EVERY]
    for name, points in seen["moved"].items():
        ours = made.posed({} if name == "rest" else {name: 1.0})[rows]
        np.testing.assert_allclose(1000 * np.reshape(points, (-1, 3)), ours, atol=0.02, err_msg=name)
    uv = np.reshape(seen["uv"], (-1, 2)) * [1, -1] + [0, 1]
    np.testing.assert_allclose(uv, face_layout().coordinates, atol=1e-5)
    still, opened = (np.reshape(seen[name], (200, 200, 4))[..., :3].astype(int) for name in ("still", "open"))
    assert (still.sum(axis=2) > 0).mean() > 0.2  # there is a face
    changed = np.abs(still - opened).sum(axis=2) > 30
    assert changed[:100].sum() > 10 * changed[120:].sum()  # rows count from below: its lower half has moved


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: sudo apt-get install -y chromium")
@pytest.mark.skipif(
    TALKING is None, reason="needs TalkingHead on NODE_PATH: npm install three @met4citizen/talkinghead"
)
def test_talking_head_finds_the_shapes_and_makes_faces(saved: tuple[Rig, Path]) -> None:
    seen = looked_at(saved[1], AVATAR.replace("NAMES", json.dumps(ARKIT)))
    assert set(ARKIT) <= set(seen["names"])
    assert {"mouthOpen", "eyesClosed"} <= set(seen["names"])  # which it mixes of ours
    assert seen["fixed"] == pytest.approx(seen["fixed"] | dict.fromkeys(ARKIT, 0.25), abs=0.01)
    happy, sad = seen["happy"], seen["sad"]
    assert happy["mouthSmile"] > sad["mouthSmile"] + 0.1
    assert sad["mouthFrownLeft"] > happy["mouthFrownLeft"] + 0.1


@pytest.mark.skipif(
    not any(BLENDER.parents[1].glob("lib/python*/site-packages/bpy")),
    reason="needs Blender's module: see CONTRIBUTING.md",
)
def test_blender_finds_the_shape_keys_and_the_texture_coordinates(saved: tuple[Rig, Path]) -> None:
    made, path = saved
    done = subprocess.run([BLENDER, "-c", BLENDER_SAYS, path], capture_output=True, text=True, check=False, env=PLAIN)
    assert done.returncode == 0, done.stderr[-2000:]
    says = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("SAYS "))[5:])
    assert list(says["far"])[1:] == list(made.targets)
    assert len(set(says["far"]) & set(ARKIT)) == 52
    assert says["uv"]
    for name, shift in made.targets.items():
        assert 1000 * says["far"][name] == pytest.approx(np.linalg.norm(shift, axis=1).max(), abs=0.02), name
